# One norm behind the other, and both weights are one cast: the second does not depend on the first for reading what that reads.
graph "shared_parameter"
opset "" 20
input %x: f32[seq, 64]
input %narrow: bf16[64]
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
%wide = cast(%narrow) {to=f32}
%a_sq = pow(%x, %two)
%a_ms = reduce_mean(%a_sq) {axes=[-1]}
%a_ve = add(%a_ms, %eps)
%a_r = rsqrt(%a_ve)
%a_n = mul(%x, %a_r)
%a = mul(%a_n, %wide)
%b_sq = pow(%a, %two)
%b_ms = reduce_mean(%b_sq) {axes=[-1]}
%b_ve = add(%b_ms, %eps)
%b_r = rsqrt(%b_ve)
%b_n = mul(%a, %b_r)
%b = mul(%b_n, %wide)
output %b
