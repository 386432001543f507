# A given scale a channel.
graph "dequantised_channels"
opset "" 23
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %s: f32[256] = fill(0.25)
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%y32 = cast(%y) {to=f32}
%q = quantize_linear(%y32, %s) {axis=2, block_size=0, to=i8, saturate=true}
%f = dequantize_linear(%q, %s) {axis=-1, block_size=0, to=bf16}
output %f
