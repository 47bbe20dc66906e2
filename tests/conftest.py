"""Settings of every test: 64-bit, strict about dtypes and ranks, eight simulated devices. No helpers; see oracle.py and cases.py."""

import gc
import os

# Tracing makes many objects and little garbage.
gc.set_threshold(100_000, 50, 50)
# Compiling is nearly all of the time, and the programs run once.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
os.environ.setdefault("KERAS_BACKEND", "jax")  # which Keras reads when it is imported

import jax  # noqa: E402
import pytest  # noqa: E402

from jaxdeconv import _partitioning  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_traceback_in_locations_limit", 0)  # for speed; those of exceptions stay

# Of what is chosen where there is one device, as most users have it; tests of shardings see all eight.
_partitioning.devices = lambda: 1


@pytest.fixture(autouse=True, scope="module")
def _ranks(request):
    """No ranks are promoted, but in what is written as users write."""
    users = request.path.name.startswith(("test_docs", "test_example_"))
    with jax.numpy_rank_promotion("allow" if users else "raise"):
        yield
