# What the sigmoid is of is scaled by a number for each channel.
graph "alpha_a_channel"
opset "" 20
input %gate: f32[batch, seq, 2]
input %up: f32[batch, seq, 2]
const %alpha: f32[2] = [1.702, 1.5]
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
