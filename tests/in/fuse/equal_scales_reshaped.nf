# The same through views of the buffers.
graph "equal_scales_reshaped"
opset "" 20
input %x: bf16[batch, seq, 256]
const %s0: f32[] = 0.05
const %s1: f32[] = 0.05
const %w: bf16[256] = fill(1.25)
const %axis: i64[1] = [1]
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
%f0 = reshape(%s0, %axis)
%c0 = cast(%y) {to=f32}
%d0 = div(%c0, %f0)
%k0 = clip(%d0, %lo, %hi)
%q0 = cast(%k0) {to=f8e4m3fn}
%f1 = reshape(%s1, %axis)
%c1 = cast(%y) {to=f32}
%d1 = div(%c1, %f1)
%k1 = clip(%d1, %lo, %hi)
%q1 = cast(%k1) {to=f8e4m3fn}
output %q0
output %q1
