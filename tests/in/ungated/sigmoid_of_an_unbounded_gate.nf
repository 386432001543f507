# The sigmoid is of the gate before it is bounded.
graph "sigmoid_of_an_unbounded_gate"
opset "" 20
input %gate: f32[batch, seq, 64]
input %up: f32[batch, seq, 64]
const %alpha: f32[] = 1.702
const %limit: f32[] = 7.0
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%g = clip(%gate, _, %limit)
%scaled = mul(%gate, %alpha)
%sigmoid = sigmoid(%scaled)
%glu = mul(%g, %sigmoid)
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
