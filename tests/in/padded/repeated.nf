# Each reader pads for itself, one of them tokens in a row.
graph "repeated"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %by: i64[2] = [0, 64]
const %by2: i64[4] = [0, 0, 0, 64]
const %last: i64[1] = [2]
const %rows: i64[2] = [-1, 256]
const %b: bf16[320, 32] = fill(0.125)
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%p = pad(%y, %by, _, %last)
%a = matmul(%p, %b)
%flat = reshape(%y, %rows)
%p2 = pad(%flat, %by2)
%c = matmul(%p2, %b)
output %a
output %c
