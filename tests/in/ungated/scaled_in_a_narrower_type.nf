# Alpha times the gate is rounded to bf16, the gate is f32.
graph "scaled_in_a_narrower_type"
opset "" 20
input %gate: f32[batch, seq, 64]
input %up: f32[batch, seq, 64]
const %alpha: f32[] = 1.702
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%scaled = mul(%gate, %alpha)
%narrow = cast(%scaled) {to=bf16}
%sigmoid16 = sigmoid(%narrow)
%sigmoid = cast(%sigmoid16) {to=f32}
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
