# Everything between in f32: bounds that bf16 does not hold, so that the other factor is bounded as it is widened.
graph "clamped_in_f32"
opset "" 20
input %gate: bf16[batch, seq, 64]
input %up: bf16[batch, seq, 64]
const %limit: f32[] = 7.01
const %minus: f32[] = -7.01
const %alpha: f32[] = 1.702
const %one: f32[] = 1.0
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%g32 = cast(%gate) {to=f32}
%u32 = cast(%up) {to=f32}
%g = clip(%g32, _, %limit)
%u = clip(%u32, %minus, %limit)
%scaled = mul(%g, %alpha)
%sigmoid = sigmoid(%scaled)
%glu = mul(%g, %sigmoid)
%more = add(%u, %one)
%wide = mul(%more, %glu)
%y = cast(%wide) {to=bf16}
%v = cast(%y) {to=f32}
%a = abs(%v)
%m = reduce_max(%a) {axes=[-1]}
%m1 = max(%m, %floor)
%s = div(%m1, %top)
%d = div(%v, %s)
%c = clip(%d, %low, %top)
%q = cast(%c) {to=f8e4m3fn}
output %q
output %s
