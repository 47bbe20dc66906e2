"""Transposed convolutions of published models: the cases that are timed. Sizes only; nothing here computes.

Sources name a paper or an issue, and the code whose sizes these are; "batch 64 there" is what a training batch here was shrunk from,
for time: lax takes up to a hundred times as long as the others.
"""

import math
import random
from typing import NamedTuple


class Layer(NamedTuple):
    """One transposed convolution: y is the whole output but for `padding`, the (low, high) crops of each dimension."""

    name: str
    source: str
    batch: int
    size: tuple[int, ...]
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    groups: int

    @property
    def ndim(self) -> int:
        return len(self.size)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """[B, *W, I]."""
        return (self.batch, *self.size, self.in_channels)

    @property
    def w_shape(self) -> tuple[int, ...]:
        """[*k, O / groups, I]."""
        return (*self.kernel, self.out_channels // self.groups, self.in_channels)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """[B, *L, O]."""
        rows = zip(self.size, self.kernel, self.strides, self.padding, self.dilations, strict=True)
        return (self.batch, *((w - 1) * s + (k - 1) * d + 1 - lo - hi for w, k, s, (lo, hi), d in rows), self.out_channels)

    @property
    def flops(self) -> int:
        """Of the forward pass, and of either gradient: two for each tap of each input sample."""
        return 2 * math.prod(self.x_shape[:-1]) * math.prod(self.w_shape)


def _layers(name, source, batches, channels, kernel, stride, crops=(0, 0), dilation=1, groups=1):
    """One Layer for each (batch, size) of batches; kernel, stride, dilation and crops alike in all dimensions."""
    for batch, size in batches:
        n = len(size)
        yield Layer(
            f"{name}.b{batch}", source, batch, size, *channels, (kernel,) * n, (stride,) * n, (crops,) * n, (dilation,) * n, groups
        )


def _centred(k, s):
    return (k - s) // 2, (k - s + 1) // 2


def _causal(k, s):
    return 0, k - s


def _stack(name, source, batches, channels, kernels, strides, crops):
    """The upsamplers of a decoder, one after the other; batches has (batch, frames) of the first, crops is a rule."""
    for index, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
        upsampled = math.prod(strides[:index])
        sizes = [(batch, (frames * upsampled,)) for batch, frames in batches]
        yield from _layers(f"{name}.up{index + 1}", source, sizes, channels[index : index + 2], kernel, stride, crops(kernel, stride))


HIFI_GAN = "Kong et al. 2020, arXiv:2010.05646, config_v1; 80 frames, training segments of 32"
ENCODEC = "Défossez et al. 2022, arXiv:2210.13438, encodec_24khz, causal; 1 s"
DAC = "Kumar et al. 2023, arXiv:2306.06546, conf/base.yml, 44.1 kHz; 1 s; training 0.38 s, batch 72 there"
MIMI = "Défossez et al. 2024, arXiv:2410.00037, kyutai-labs/moshi, causal; 1 s"
WAVEGAN = "Donahue et al. 2019, arXiv:1802.04208, wavegan.py; batch 64 there"
TASNET = "Luo and Mesgarani 2019, arXiv:1809.07454, N=512, L=16; 4 s at 8 kHz"
BIGVGAN = "Lee et al. 2023, arXiv:2206.04658, UpSample1d, config of 24 kHz, 100 bands, 256x; 1 s; training 32 frames, batch 32 there"
ISTFT = "pytorch #120982, there 224 frames; stands in for jax #23783"
DCGAN = "Radford et al. 2016, arXiv:1511.06434, with the kernel of 4 of pytorch/examples; batch 128 there"
UNET = "Ronneberger et al. 2015, arXiv:1505.04597, 572x572, trained with batch 1"
CYCLEGAN = "Zhu et al. 2017, arXiv:1703.10593, ResnetGenerator, 256x256, trained with batch 1"
PIX2PIXHD = "Wang et al. 2018, arXiv:1711.11585, GlobalGenerator, 1024x512, trained with batch 1"
FCN = "Long et al. 2015, arXiv:1411.4038, voc-fcn8s, 500x500; depthwise, which its bilinear filters are"
DLA = "Zhou et al. 2019, arXiv:1904.07850, dla34 IDAUp, 512x512; batch 32 there"
VNET = "Milletari et al. 2016, arXiv:1606.04797, mattmacy/vnet.pytorch, 128x128x64, trained with batch 2"
UNET3D = "Lee et al. 2017, arXiv:1706.00120, wolny/pytorch-3dunet ResidualUNet3D; f_maps=32 and patches of 32x32x32 here"
SYNTHETIC = "synthetic"

LAYERS: tuple[Layer, ...] = (
    *_stack("hifigan", HIFI_GAN, [(1, 80), (16, 32)], (512, 256, 128, 64, 32), (16, 16, 4, 4), (8, 8, 2, 2), _centred),
    *_stack("encodec", ENCODEC, [(1, 75), (8, 75)], (512, 256, 128, 64, 32), (16, 10, 8, 4), (8, 5, 4, 2), _causal),
    *_stack("dac", DAC, [(1, 87), (4, 33)], (1536, 768, 384, 192, 96), (16, 16, 8, 4), (8, 8, 4, 2), _centred),
    *_layers("mimi.upsample", MIMI, [(1, (13,))], (512, 512), 4, 2, (0, 2), groups=512),
    *_stack("mimi", MIMI, [(1, 25)], (1024, 512, 256, 128, 64), (16, 12, 10, 8), (8, 6, 5, 4), _causal),
    *_stack("wavegan", WAVEGAN, [(1, 16), (16, 16)], (1024, 512, 256, 128, 64, 1), (25,) * 5, (4,) * 5, _centred),
    *_layers("convtasnet.decoder", TASNET, [(1, (3999,)), (4, (3999,))], (512, 1), 16, 8),
    *_layers("bigvgan.stage1", BIGVGAN, [(1, (94 * 4 + 10,))], (768, 768), 12, 2, (15, 15), groups=768),
    *_layers("bigvgan.stage3", BIGVGAN, [(1, (94 * 32 + 10,)), (8, (32 * 32 + 10,))], (192, 192), 12, 2, (15, 15), groups=192),
    *_layers("bigvgan.stage6", BIGVGAN, [(1, (94 * 256 + 10,))], (24, 24), 12, 2, (15, 15), groups=24),
    *_layers("istft", ISTFT, [(1, (500,)), (8, (500,))], (1026, 1), 1024, 256),
    *_layers("dcgan.up1", DCGAN, [(1, (1, 1))], (100, 1024), 4, 1),
    *_layers("dcgan.up2", DCGAN, [(1, (4, 4)), (16, (4, 4))], (1024, 512), 4, 2, (1, 1)),
    *_layers("dcgan.up3", DCGAN, [(1, (8, 8)), (16, (8, 8))], (512, 256), 4, 2, (1, 1)),
    *_layers("dcgan.up4", DCGAN, [(1, (16, 16)), (16, (16, 16))], (256, 128), 4, 2, (1, 1)),
    *_layers("dcgan.up5", DCGAN, [(1, (32, 32)), (16, (32, 32))], (128, 3), 4, 2, (1, 1)),
    *_layers("unet.up1", UNET, [(1, (28, 28))], (1024, 512), 2, 2),
    *_layers("unet.up2", UNET, [(1, (52, 52))], (512, 256), 2, 2),
    *_layers("unet.up3", UNET, [(1, (100, 100))], (256, 128), 2, 2),
    *_layers("unet.up4", UNET, [(1, (196, 196))], (128, 64), 2, 2),
    *_layers("cyclegan.up1", CYCLEGAN, [(1, (64, 64))], (256, 128), 3, 2, (1, 0)),
    *_layers("cyclegan.up2", CYCLEGAN, [(1, (128, 128))], (128, 64), 3, 2, (1, 0)),
    *_layers("pix2pixhd.up1", PIX2PIXHD, [(1, (32, 64))], (1024, 512), 3, 2, (1, 0)),
    *_layers("fcn.upscore_pool4", FCN, [(1, (34, 34))], (21, 21), 4, 2, groups=21),
    *_layers("fcn.upscore8", FCN, [(1, (70, 70))], (21, 21), 16, 8, (31, 37), groups=21),
    *_layers("dla.up", DLA, [(1, (64, 64)), (8, (64, 64))], (64, 64), 4, 2, (1, 1), groups=64),
    *_layers("grouped.1d", SYNTHETIC, [(8, (1024,))], (256, 128), 4, 2, (1, 1), groups=4),
    *_layers("grouped.2d", SYNTHETIC, [(8, (32, 32))], (128, 64), 4, 2, (1, 1), groups=4),
    *_layers("dilated.1d.s1d4", SYNTHETIC, [(4, (2048,))], (128, 128), 3, 1, (4, 4), dilation=4),
    *_layers("dilated.2d.s1d2", SYNTHETIC, [(2, (64, 64))], (64, 64), 3, 1, (2, 2), dilation=2),
    *_layers("dilated.1d.s2d3", SYNTHETIC, [(4, (1024,))], (128, 64), 4, 2, (4, 4), dilation=3),
    *_layers("dilated.2d.s2d3", SYNTHETIC, [(2, (32, 32))], (64, 32), 3, 2, (2, 3), dilation=3),
    *_layers("vnet.up1", VNET, [(1, (8, 8, 4))], (256, 128), 2, 2),
    *_layers("vnet.up3", VNET, [(1, (32, 32, 16)), (2, (32, 32, 16))], (128, 32), 2, 2),
    *_layers("vnet.up4", VNET, [(1, (64, 64, 32))], (64, 16), 2, 2),
    *_layers("unet3d.k3", UNET3D, [(1, (16, 16, 16))], (64, 32), 3, 2, (1, 0)),
    *_layers("jax31662", "jax #31662, in bfloat16 there", [(1, (64, 64, 32))], (64, 1), 3, 2, (1, 0)),
)

QUICK: tuple[str, ...] = (
    "hifigan.up1.b1",
    "hifigan.up3.b16",
    "encodec.up2.b1",
    "wavegan.up3.b1",
    "convtasnet.decoder.b1",
    "bigvgan.stage3.b1",
    "istft.b1",
    "dcgan.up4.b16",
    "unet.up1.b1",
    "cyclegan.up1.b1",
    "dla.up.b1",
    "grouped.1d.b8",
    "vnet.up3.b1",
    "unet3d.k3.b1",
)


INSIDE: tuple[Layer, ...] = (
    *_layers("1d.k4s2", "a decoder's", [(8, (1024,))], (64, 32), 4, 2, (1, 1)),
    *_layers("2d.k4s2", "a generator's", [(16, (16, 16))], (128, 64), 4, 2, (1, 1)),
    *_layers("1d.k5s1", "stride 1", [(8, (1024,))], (64, 32), 5, 1, (2, 2)),
    *_layers("2d.k5s1", "stride 1", [(4, (32, 32))], (64, 32), 5, 1, (2, 2)),
)
"""Those that are timed inside programs, where lax takes up to a thousand times as long."""


def random_layers(count: int, seed: int, most_flops: float) -> list[Layer]:
    """Layers that no one published: sizes drawn on logarithmic scales, for forward passes of 1e6 to `most_flops` operations."""
    rng = random.Random(seed)

    def logarithmic(least: float, most: float) -> int:
        return round(math.exp(rng.uniform(math.log(least), math.log(most))))

    def drawn(index: int) -> Layer:
        n = rng.choices((1, 2, 3), (5, 4, 1))[0]
        k = logarithmic(1.5, (24, 8, 5)[n - 1])
        s = rng.choice((1, k, rng.randint(1, k), min(k, 2)))
        dilation = rng.choices((1, 2, 3), (8, 1, 1))[0] if s == 1 else 1
        channels = [logarithmic(1, 1024), logarithmic(1, 1024)]
        groups = 1
        if rng.random() < 0.15:  # depthwise, or a few
            groups = channels[0] if rng.random() < 0.5 else rng.choice((2, 4, 8))
            channels = [channels[0]] * 2 if groups == channels[0] else [-(-each // groups) * groups for each in channels]
        crops = rng.choice((_centred(k, s), _causal(k, s), (0, 0)))
        batch = logarithmic(1, 32)
        each = 2 * batch * k**n * channels[0] * channels[1] // groups
        most = most_flops if groups == 1 else most_flops / 20  # XLA on CPU computes those of lax by scalar loops
        samples = max(2**n, logarithmic(max(1e6, each), max(most, 2 * each)) / each)
        longest = max(2, round(samples ** (1 / n)))
        size = tuple(max(2, round(longest * 2 ** rng.uniform(-0.5, 0.5))) if n > 1 else longest for _ in range(n))
        source = f"random, seed {seed}"
        return Layer(f"random.{index}", source, batch, size, *channels, (k,) * n, (s,) * n, (crops,) * n, (dilation,) * n, groups)

    layers: list[Layer] = []
    while len(layers) < count:
        layer = drawn(len(layers))
        if layer.flops <= (most_flops if layer.groups == 1 else most_flops / 20) and min(layer.y_shape) > 0:
            layers.append(layer)
    return layers
