# One quantiser repeated for each of three readers is one op; a fourth with another scheme is a second one, and the cast that both read goes with it.
graph "repeated"
opset "" 20
input %gate: bf16[batch, seq, 256]
input %up: bf16[batch, seq, 256]
const %s: f32[] = 0.05
const %hi: f32[] = 448.0
const %lo: f32[] = -448.0
%y_g = sigmoid(%gate)
%y_s = mul(%gate, %y_g)
%y = mul(%y_s, %up)
%c0 = cast(%y) {to=f32}
%d0 = div(%c0, %s)
%k0 = clip(%d0, %lo, %hi)
%q0 = cast(%k0) {to=f8e4m3fn}
%c1 = cast(%y) {to=f32}
%d1 = div(%c1, %s)
%k1 = clip(%d1, %lo, %hi)
%q1 = cast(%k1) {to=f8e4m3fn}
%c2 = cast(%y) {to=f32}
%d2 = div(%c2, %s)
%k2 = clip(%d2, %lo, %hi)
%q2 = cast(%k2) {to=f8e4m3fn}
%c3 = cast(%y) {to=f32}
%abs = abs(%c3)
%am = reduce_max(%abs) {axes=[-1]}
%s3 = div(%am, %hi)
%d3 = div(%c3, %s3)
%q3 = cast(%d3) {to=f8e4m3fn}
output %q0
output %q1
output %q2
output %q3
output %s3
