"""`accelerate` of small models as each framework's documentation writes them: values, gradients and training steps, in a scan too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from test_accelerate import left

import jaxdeconv

pytestmark = pytest.mark.filterwarnings("default")  # the frameworks' own


def signal(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def linen():
    nn = pytest.importorskip("flax.linen")

    class Autoencoder(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            x = nn.relu(nn.Conv(8, (4, 4), (2, 2))(x))
            x = nn.Dropout(0.5, deterministic=not train)(x)
            x = nn.ConvTranspose(6, (4, 4), (2, 2))(x)
            return nn.BatchNorm(use_running_average=not train)(x)

    model, x = Autoencoder(), signal(2, 8, 8, 3)
    variables = model.init(jax.random.key(0), x, train=False)

    def loss(parameters, x):
        state = {"params": parameters, "batch_stats": variables["batch_stats"]}
        y, updates = model.apply(state, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
        return jnp.mean((y[..., :3] - x) ** 2) + 0 * sum(map(jnp.sum, jax.tree.leaves(updates)))

    return loss, variables["params"], x


def nnx():
    nnx = pytest.importorskip("flax.nnx")

    class Decoder(nnx.Module):
        def __init__(self, rngs):
            self.up = nnx.ConvTranspose(4, 6, (4,), (2,), rngs=rngs)
            self.out = nnx.Conv(6, 4, (3,), rngs=rngs)

        def __call__(self, x):
            return self.out(jnp.tanh(self.up(x)))

    graph, parameters = nnx.split(Decoder(nnx.Rngs(0)))
    return lambda parameters, x: jnp.mean(nnx.merge(graph, parameters)(x) ** 2), parameters, signal(2, 8, 4)


def haiku():
    hk = pytest.importorskip("haiku")

    def forward(x):
        mlp = hk.Sequential([hk.Conv1D(8, 4, 2), jax.nn.relu, hk.Conv1DTranspose(3, 4, 2)])
        return jnp.mean((mlp(x) - x) ** 2)

    model, x = hk.without_apply_rng(hk.transform(forward)), signal(2, 8, 3)
    return model.apply, model.init(jax.random.key(0), x), x


def equinox():
    eqx = pytest.importorskip("equinox")

    class Generator(eqx.Module):
        layers: list

        def __init__(self, key):
            first, second = jax.random.split(key)
            up = eqx.nn.ConvTranspose2d(4, 6, 4, 2, padding=1, key=first)
            self.layers = [up, jax.nn.relu, eqx.nn.Conv2d(6, 1, 3, padding=1, key=second), jnp.tanh]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    parameters, static = eqx.partition(Generator(jax.random.key(0)), eqx.is_array)
    return lambda parameters, x: jnp.mean(jax.vmap(eqx.combine(parameters, static))(x) ** 2), parameters, signal(2, 4, 3, 5)


def keras():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras is on another backend")
    layers = keras.layers
    made = [layers.Input((8, 3)), layers.Conv1D(4, 4, 2, padding="same"), layers.Conv1DTranspose(3, 4, 2, padding="same")]
    model = keras.Sequential(made)
    others = [variable.value for variable in model.non_trainable_variables]

    def loss(parameters, x):
        y, _ = model.stateless_call(parameters, others, x, training=True)
        return jnp.mean((y - x) ** 2)

    return loss, [variable.value for variable in model.trainable_variables], signal(2, 8, 3)


@pytest.mark.parametrize("made", [linen, nnx, haiku, equinox, keras])
def test_models(made):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        loss, parameters, x = made()
        accelerated = jaxdeconv.accelerate(loss)

        def step(loss):
            def updated(state, x):
                parameters, momentum = state
                value, gradients = jax.value_and_grad(loss)(parameters, x)
                momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradients)
                return (jax.tree.map(lambda w, m: w - 0.01 * m, parameters, momentum), momentum), value

            return updated

        def trained(step):
            state = parameters, jax.tree.map(jnp.zeros_like, parameters)
            return jax.jit(lambda state: lax.scan(lambda state, _: step(state, x), state, None, length=3))(state)

        np.testing.assert_allclose(accelerated(parameters, x), loss(parameters, x), rtol=1e-5)
        expected = trained(step(loss))
        for each in (step(accelerated), jaxdeconv.accelerate(step(loss))):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), trained(each), expected)
            state = parameters, jax.tree.map(jnp.zeros_like, parameters)
            assert left(step(loss), state, x)
            assert left(each, state, x) == []
        assert len(jaxdeconv.accelerate(step(loss)).explain((parameters, parameters), x).replaced) >= 3


@pytest.mark.parametrize("way", ["step", "eager step", "loss", "nnx.scan"])
def test_objects_are_changed_in_place(way):
    nnx, optax = pytest.importorskip("flax.nnx"), pytest.importorskip("optax")

    class Decoder(nnx.Module):
        def __init__(self, rngs):
            self.up = nnx.ConvTranspose(4, 6, (4,), (2,), rngs=rngs)
            self.norm, self.drop = nnx.BatchNorm(6, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.norm(self.up(x)))

    def loss(model, x):
        return jnp.mean(model(x) ** 2)

    def step(model, optimizer, x, loss=loss):
        value, gradients = nnx.value_and_grad(loss)(model, x)
        optimizer.update(model, gradients)
        return value

    def scanned(step):
        def body(state, x):
            return state, step(*state, x)

        return lambda model, optimizer, xs: nnx.scan(body, in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))((model, optimizer), xs)[1]

    def trained(accelerate):
        function = {
            "step": nnx.jit(accelerate(step)),
            "eager step": accelerate(step),
            "loss": nnx.jit(lambda *given: step(*given, accelerate(loss))),
            "nnx.scan": nnx.jit(scanned(accelerate(step))),
        }[way]
        model = Decoder(nnx.Rngs(0))
        optimizer, xs = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param), signal(3, 2, 8, 4)
        losses = function(model, optimizer, xs) if way == "nnx.scan" else jnp.stack([function(model, optimizer, x) for x in xs])
        assert model.drop.rngs.count[...] == optimizer.step[...] == 3
        return losses, model.norm.mean[...], model.norm.var[...], model.norm.scale[...], model.up.kernel[...]

    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for found, expected in zip(trained(jaxdeconv.accelerate), trained(lambda function: function), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_objects_may_be_given_more_state():
    nnx = pytest.importorskip("flax.nnx")

    class Counting(nnx.Module):
        def __init__(self):
            self.count = 0

        def __call__(self, x):
            self.count += 1
            self.calls = nnx.Variable(jnp.ones((), jnp.int32) + (self.calls[...] if hasattr(self, "calls") else 0))
            return x

    model = Counting()
    for count in (1, 2):
        jaxdeconv.accelerate(lambda x, *, model: model(x))(signal(3), model=model)
        assert model.calls[...] == model.count == count
