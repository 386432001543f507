# Somebody reads the largest magnitude, and somebody else the scale that is made of it: an op hands out one of them.
graph "quantiser_of_two_scales"
opset "" 20
input %y: bf16[batch, seq, 64]
const %top: f32[] = 448.0
%y32 = cast(%y) {to=f32}
%abs = abs(%y32)
%am = reduce_max(%abs) {axes=[-1]}
%s = div(%am, %top)
%d = div(%y32, %s)
%q = cast(%d) {to=f8e4m3fn}
output %q
output %s
output %am
