# A sum of squares squares in f32; a sum of products rounds each.
graph "sum_square_bf16"
opset "" 20
input %x: bf16[batch, seq, 24]
const %w: bf16[24] = fill(1.25)
const %eps: bf16[] = 1e-3
const %n: bf16[] = 24.0
%sm = reduce_sum_square(%x) {axes=[-1]}
%ms = div(%sm, %n)
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%nn = mul(%x, %r)
%y = mul(%nn, %w)

output %y
