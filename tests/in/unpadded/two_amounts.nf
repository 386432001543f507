# Two readers want rows of two sizes.
graph "two_amounts"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %by: i64[6] = [0, 0, 0, 0, 0, 64]
const %by2: i64[6] = [0, 0, 0, 0, 0, 32]
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%p = pad(%y, %by)
%p2 = pad(%y, %by2)
output %p
output %p2
