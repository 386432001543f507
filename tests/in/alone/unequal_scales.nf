# Two quantisers whose scales differ in the last bit: two of them.
graph "unequal_scales"
opset "" 20
input %x: f32[seq, 64]
const %s0: f32[] = 0.05
const %s1: f32[] = 0x3d4cccce
const %hi: f32[] = 448.0
const %lo: f32[] = -448.0
%d0 = div(%x, %s0)
%k0 = clip(%d0, %lo, %hi)
%q0 = cast(%k0) {to=f8e4m3fn}
%d1 = div(%x, %s1)
%k1 = clip(%d1, %lo, %hi)
%q1 = cast(%k1) {to=f8e4m3fn}
output %q0
output %q1
