"""What the checks for GPUs read where XLA makes fusions of cuDNN's convolutions. The text is written here; nothing is compiled."""

import pytest

from benchmarks.layers import Layer
from compiler_tests.gpu import Product, faults, products

LAYER = Layer("", "", 2, (9, 7), 16, 32, (4, 4), (2, 2), ((1, 1), (1, 1)), (1, 1), 1)
BOTH = frozenset({"bf16"})
INSTRUCTIONS = {  # operands, result, window, and XLA's name for what it is
    "convForward": ("2,18,14,32", "16,4,4,32", "2,9,7,16", "size=4x4 pad=1_1x1_1 stride=2x2", "b01f_o01i->b01f", "fprop"),
    "convBackwardInput": ("2,9,7,16", "16,4,4,32", "2,18,14,32", "size=4x4 pad=2_2x2_2 lhs_dilate=2x2", "b01f_i01o->b01f", "dgrad"),
    "convBackwardFilter": ("2,18,14,32", "2,9,7,16", "16,4,4,32", "size=9x7 pad=1_1x1_1 rhs_dilate=2x2", "f01b_i01o->f01b", "wgrad"),
}
FUSION = 'fusion(%a, %b), kind=kCustom, calls=%of_cudnn, backend_config={"fusion_backend_config":{"kind":"__cudnn$fusion"}}'
CALL = 'custom-call(%a, %b), custom_call_target="__cudnn$fusion", called_computations={%of_cudnn}'


def text(of, *, how=FUSION, kind=None, a="parameter(0)", inside="parameter(0)"):
    lhs, rhs, result, window, labels, own = INSTRUCTIONS[of]
    attributes = f"window={{{window}}}, dim_labels={labels}, convolution_kind={kind or own}"
    return f"""HloModule program

%of_cudnn (p: bf16[{lhs}], q: bf16[{rhs}]) -> bf16[{result}] {{
  %nothing = bf16[] constant(0)
  %p = bf16[{lhs}]{{3,2,1,0}} {inside}
  %q = bf16[{rhs}]{{3,2,1,0}} parameter(1)
  ROOT %product = bf16[{result}]{{3,2,1,0}} convolution(%p, %q), {attributes}
}}

ENTRY %main (x: bf16[{lhs}], b: bf16[{rhs}]) -> bf16[{result}] {{
  %x = bf16[{lhs}]{{3,2,1,0}} parameter(0)
  %b = bf16[{rhs}]{{3,2,1,0}} parameter(1)
  %zero = bf16[] constant(0)
  %a = bf16[{lhs}]{{3,2,1,0}} {a}
  ROOT %y = bf16[{result}]{{3,2,1,0}} {how}
}}
"""


@pytest.mark.parametrize("how", [FUSION, CALL], ids=["fusion", "call"])
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_a_fusion_is_a_convolution_of_cudnn(name, how):
    assert products(text(name, how=how)) == [Product(name, BOTH, (4, 4), (2, 2), (), False)]
    assert faults(text(name, how=how), LAYER, "bfloat16") == []


def test_what_is_none_is_a_fault():
    stuffed = ["convForward has a zero-stuffed operand"]
    assert faults(text("convBackwardInput", kind="fprop"), LAYER, "bfloat16") == stuffed
    apart = "padding=0_0x0_0_1x0_0_1x0_0"
    assert faults(text("convForward", a=f"pad(%x, %zero), {apart}"), LAYER, "bfloat16") == stuffed
    assert faults(text("convForward", inside=f"pad(%x, %nothing), {apart}"), LAYER, "bfloat16") == stuffed
    assert "a window of (9, 7) for" in faults(text("convBackwardFilter", kind="fprop"), LAYER, "bfloat16")[0]
    assert faults(text("convForward", how="fusion(%a, %b), kind=kLoop, calls=%of_cudnn"), LAYER, "bfloat16") == [
        "convolution is no call of cuDNN"
    ]
