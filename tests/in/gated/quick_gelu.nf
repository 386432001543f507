# The sigmoid of 1.702 times the gate, and nothing else.
graph "quick_gelu"
opset "" 20
input %gate: f32[batch, seq, 64]
input %up: f32[batch, seq, 64]
const %alpha: f32[] = 1.702
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%scaled = mul(%gate, %alpha)
%sigmoid = sigmoid(%scaled)
%glu = mul(%gate, %sigmoid)
%y = mul(%glu, %up)
%a = abs(%y)
%m = reduce_max(%a) {axes=[-1]}
%m1 = max(%m, %floor)
%s = div(%m1, %top)
%d = div(%y, %s)
%c = clip(%d, %low, %top)
%q = cast(%c) {to=f8e4m3fn}
output %q
output %s
