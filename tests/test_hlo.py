"""Compiled programs of a few lines, with costs by hand."""

import pytest

from eseg_jax import hlo, tpu

# 1e9 cycles and 1e9 bytes a second; 8e9 bytes a second over the links.
CHIP = tpu.Chip(memory=1e9, flops=1e12, bandwidth=1e9, clock=1e9, links=8e9)

_LOOP = """\
HloModule jit_f, is_scheduled=true

%inner.1 (p.1: f32[8,128], p.2: s32[]) -> f32[1,128] {
  %p.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %p.2 = s32[]{:T(128)} parameter(1)
  %c.1 = s32[]{:T(128)} constant(0)
  ROOT %d.1 = f32[1,128]{1,0:T(1,128)} dynamic-slice(%p.1, %p.2, %c.1), slices={1,128}
}

%body.1 (s: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %s = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %f = f32[1,128]{1,0:T(1,128)S(1)} fusion(%x, %i), kind=kLoop, calls=%inner.1, \
metadata={op_name="jit(f)/row"}, backend_config={"estimated_cycles":"2000"}
  %y = f32[8,128]{1,0:T(8,128)} negate(%x), metadata={op_name="jit(f)/neg"}
  ROOT %t = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%i, %y)
}

%condition.1 (s.1: (s32[], f32[8,128])) -> pred[] {
  %s.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %i.1 = s32[]{:T(128)} get-tuple-element(%s.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(START)
  %copy = s32[]{:T(128)} copy(%zero)
  %init = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%copy, %a)
  %w = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%init), \
condition=%condition.1, body=%body.1
  ROOT %out = f32[8,128]{1,0:T(8,128)} get-tuple-element(%w), index=1
}
"""


def test_loop_counts_as_often_as_it_runs():
    found = tpu.estimate(_LOOP.replace("START", "1"), CHIP, 1)
    # Four trips: the fusion's 2000 cycles, more than its slice of 512 bytes; and the
    # negation, which reads and writes 4096 bytes. Scalars: 9 bytes a comparison, of
    # which the condition has one a trip; 8 the copy.
    assert found.sources["jit(f)/row"] == pytest.approx(4 * 2e-6)
    assert found.sources["jit(f)/neg"] == pytest.approx(4 * 8192e-9)
    assert found.seconds["compiler"] == pytest.approx(8e-6)
    assert found.seconds["memory"] == pytest.approx(4 * (8192 + 9) * 1e-9 + 8e-9)
    assert found.loops_once == 0
    assert found.buffers[0] == (4096, "f32[8,128]{1,0:T(8,128)}", "jit(f)/neg")


def test_loop_of_unknown_length_counts_once_and_is_told():
    text = _LOOP.replace("constant(START)", "parameter(1)")
    found = tpu.estimate(text, CHIP, 1)
    assert found.sources["jit(f)/row"] == pytest.approx(2e-6)
    assert found.loops_once == 1


_STRAIGHT = """\
HloModule jit_g

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %r = f32[] add(%x, %y)
}

ENTRY %main (a: bf16[4,256,128]) -> f32[1000] {
  %a = bf16[4,256,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %k = bf16[4,256,128]{2,1,0:T(8,128)(2,1)} custom-call(%a), \
custom_call_target="tpu_custom_call", metadata={op_name="jit(g)/warp_forward"}
  %g = f32[16,1024]{1,0:T(8,128)} gather(%k), metadata={op_name="jit(g)/gather"}
  %r1 = f32[1000]{0:T(1024)} all-reduce(%g), channel_id=1, \
replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum
  %r2 = (f32[10]{0}, f32[40]{0}) all-gather-start(%g), replica_groups=[2,4]<=[8]
  %r3 = f32[40]{0} all-gather-done(%r2)
  ROOT %r4 = f32[1000]{0:T(1024)} all-reduce(%r1), \
replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%sum
}
"""


def test_kernels_collectives_and_what_has_no_estimate():
    found = tpu.estimate(_STRAIGHT, CHIP, 8)
    assert found.collectives == {"all-reduce": [2, 8000], "all-gather": [1, 160]}
    # Groups of four: three quarters of the bytes through half of the links, two hops.
    reduce = 2 * (0.75 * 4000 / 4e9 + 2e-6)
    gather = 0.75 * 160 / 4e9 + 2e-6
    assert found.seconds["links"] == pytest.approx(2 * reduce + gather)
    # 4 images of 256 points, 128 channels: 277 cycles for 128 points.
    assert found.seconds["kernels"] == pytest.approx(8 * 277e-9)
    # The gather reads 4 * 256 * 128 * 2 bytes and writes 64 KiB.
    assert found.sources["jit(g)/gather"] == pytest.approx((262144 + 65536) * 1e-9)
    assert (found.instructions, found.without) == (1, 1)


def test_arrays_fill_their_tiles():
    # 19 channels take 128 lanes, 30 columns 32 rows; S(1) is not HBM.
    shape = "bf16[2,30,19]{2,1,0:T(8,128)(2,1)}"
    assert hlo.size_of(shape) == 2 * 32 * 128 * 2
    both = f"({shape}, pred[4]{{0}}, f32[16,128]{{1,0:T(8,128)S(1)}})"
    assert hlo.sizes_of(both) == [16384, 4, 8192]
    assert hlo.size_of(both, hbm=True) == 16388
