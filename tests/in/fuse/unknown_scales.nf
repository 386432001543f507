# Two quantisers whose scales have the same default, which callers may change: two of them.
graph "unknown_scales"
opset "" 20
input %x: bf16[batch, seq, 256]
input %s0: f32[] default f32[] = 0.05
input %s1: f32[] default f32[] = 0.05
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %hi: f32[] = 448.0
const %lo: f32[] = -448.0
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%c0 = cast(%y) {to=f32}
%d0 = div(%c0, %s0)
%k0 = clip(%d0, %lo, %hi)
%q0 = cast(%k0) {to=f8e4m3fn}
%c1 = cast(%y) {to=f32}
%d1 = div(%c1, %s1)
%k1 = clip(%d1, %lo, %hi)
%q1 = cast(%k1) {to=f8e4m3fn}
output %q0
output %q1
