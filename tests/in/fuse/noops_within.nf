# Within a norm: the same, where the squares are averaged, where the factor meets the row, and at the weight.
graph "noops"
opset "" 20
input %x: bf16[batch, seq, 1, 256]
const %w0: bf16[256, 1] = fill(1.25)
const %eps: f32[] = 1e-6
const %start: i64[1] = [0]
const %end: i64[1] = [9223372036854775807]
const %axes: i64[1] = [1]
%x32 = cast(%x) {to=f32}
%sq0 = mul(%x32, %x32)
%sq = slice(%sq0, %start, %end, %axes)
%ms0 = reduce_mean(%sq) {axes=[-1]}
%ms = transpose(%ms0) {perm=[0, 1, 3, 2]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r0 = reciprocal(%rt)
%to = shape(%r0)
%r = expand(%r0, %to)
%n = mul(%x32, %r)
%n1 = transpose(%n) {perm=[0, 2, 1, 3]}
%nc = cast(%n1) {to=bf16}
%w = transpose(%w0) {perm=[1, 0]}
%y = mul(%w, %nc)
output %y
