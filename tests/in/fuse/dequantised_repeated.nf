# A fake quantiser a reader, each with constants of its own: all are one, and so is what they give.
graph "dequantised_repeated"
opset "" 21
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %s0: bf16[] = 0.03125
const %z0: i8[] = 3
const %s1: bf16[] = 0.03125
const %z1: i8[] = 3
input %p: bf16[256, 32]
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%q0 = quantize_linear(%y, %s0, %z0) {axis=1, block_size=0, to=i8, saturate=true}
%f0 = dequantize_linear(%q0, %s1, %z1) {axis=1, block_size=0}
%o0 = matmul(%f0, %p)
%q1 = quantize_linear(%y, %s1, %z1) {axis=1, block_size=0, to=i8, saturate=true}
%f1 = dequantize_linear(%q1, %s0, %z0) {axis=1, block_size=0}
%o1 = relu(%f1)
output %o0
output %o1
