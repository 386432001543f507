# A scale a token and one an output channel, the weight stored as the product reads it, with a scale of bf16.
graph "token_by_channel"
input %q: f8e5m2[batch, 64]
input %s: f32[batch, 1]
input %w: f8e4m3fn[64, 6]
input %ws: bf16[6]
%qf = cast(%q) {to=f32}
%x = mul(%qf, %s)
%wsf = cast(%ws) {to=f32}
%w32 = dequantize_linear(%w, %wsf) {axis=1}
%y = matmul(%x, %w32)
output %y as "y"
