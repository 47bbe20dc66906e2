"""Settings of the tests that compile for accelerators: none is needed here, but the compilers; without one, its tests are skipped.

Apart from `tests`, because 64-bit types, simulated devices and less optimisation there would change what is compiled here.
"""

import jax

jax.config.update("jax_platforms", "cpu")
