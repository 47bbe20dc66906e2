"""Settings of every test: 64-bit, strict about dtypes, eight simulated devices. No helpers; those are in oracle.py and cases.py."""

import os

# Compiling is nearly all of the time, and the programs run once.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
