graph "sum_square_f16"
opset "" 20
input %x: f16[batch, seq, 24]
const %w: f16[24] = [1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25]
const %eps: f16[] = 0.0010004044
const %n: f16[] = 24.0
%sm: f16[batch, seq, 1] = reduce_sum_square(%x) {axes=[-1], keepdims=true}
%ms: f16[batch, seq, 1] = div(%sm, %n)
%ve: f16[batch, seq, 1] = add(%ms, %eps)
%rt: f16[batch, seq, 1] = sqrt(%ve)
%r: f16[batch, seq, 1] = reciprocal(%rt)
%nn: f16[batch, seq, 24] = mul(%x, %r)
%y: f16[batch, seq, 24] = mul(%nn, %w)
output %y
