# In f32 a sum over the count is the mean.
graph "sum_over_count"
opset "" 20
input %x: f32[batch, seq, 24]
const %w: f32[24] = fill(1.25)
const %eps: f32[] = 1e-3
const %n: f32[] = 24.0
%sm = reduce_sum_square(%x) {axes=[-1]}
%ms = div(%sm, %n)
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%nn = mul(%x, %r)
%y = mul(%nn, %w)

output %y
