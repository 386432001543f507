# A sum of squares squares in f32; a sum of products rounds each.
graph "sum_square_f16"
opset "" 20
input %x: f16[batch, seq, 24]
const %w: f16[24] = fill(1.25)
const %eps: f16[] = 1e-3
const %n: f16[] = 24.0
%sm = reduce_sum_square(%x) {axes=[-1]}
%ms = div(%sm, %n)
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%nn = mul(%x, %r)
%y = mul(%nn, %w)

output %y
