# Meaning A in fp16, square as a product, operands in the other order.
graph "rms_fp16"
opset "" 20
input %x: f16[batch, seq, 256]
const %w: f16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
%y_x32 = cast(%x) {to=f32}
%y_sq = mul(%y_x32, %y_x32)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=f16}
%y = mul(%y_nc, %w)
output %y
