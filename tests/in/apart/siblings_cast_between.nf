# A cast that changes nothing stands between the row and the norm, and stays since the residual reads it, too. What is made of
# the row by way of it is made by the op all the same: the second norm depends on that.
graph "siblings_cast_between"
opset "" 20
input %x: f32[4, 64]
const %eps: f32[] = 1e-6
const %wa: f32[64] = fill(0.5)
const %wb: f32[64] = fill(0.25)
%c = cast(%x) {to=f32}
%a_sq = mul(%c, %c)
%a_ms = reduce_mean(%a_sq) {axes=[-1]}
%a_ve = add(%a_ms, %eps)
%a_r = rsqrt(%a_ve)
%a_n = mul(%c, %a_r)
%a = mul(%a_n, %wa)
%t = tanh(%a)
%h = add(%c, %t)
%b_sq = mul(%h, %h)
%b_ms = reduce_mean(%b_sq) {axes=[-1]}
%b_ve = add(%b_ms, %eps)
%b_r = rsqrt(%b_ve)
%b_n = mul(%h, %b_r)
%b = mul(%b_n, %wb)
output %b
