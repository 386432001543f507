# A gated activation is no norm.
graph "gated_activation"
opset "" 20
input %x: bf16[batch, seq, 256]
input %up: bf16[batch, seq, 256]
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
const %inv: f32[1] = [103.1367]
%g = sigmoid(%x)
%a = mul(%x, %g)
%y = mul(%a, %up)
%y32 = cast(%y) {to=f32}
%m = mul(%y32, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
