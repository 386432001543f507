# The same as ONNX has it: alpha a number of bf16, bounds by min and max, in either order and operand.
graph "clamped_by_min_and_max"
opset "" 20
input %gate: bf16[batch, seq, 64]
input %up: bf16[batch, seq, 64]
const %limit: bf16[] = 7.0
const %minus: bf16[] = -7.0
const %alpha: bf16[] = 1.703125
const %one: bf16[] = 1.0
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%g = min(%limit, %gate)
%least = max(%up, %minus)
%u = min(%least, %limit)
%scaled = mul(%alpha, %g)
%sigmoid = sigmoid(%scaled)
%glu = mul(%sigmoid, %g)
%more = add(%one, %u)
%y = mul(%glu, %more)
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
