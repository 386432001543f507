# INT8 per token of a graph input.
graph "input_int8_token"
opset "" 20
input %y: bf16[batch, seq, 256]
const %fl: f32[] = 1e-5
const %c127: f32[] = 127.0
const %lo: f32[] = -128.0
%y32 = cast(%y) {to=f32}
%abs = abs(%y32)
%am = reduce_max(%abs) {axes=[-1]}
%amf = max(%am, %fl)
%s = div(%amf, %c127)
%d = div(%y32, %s)
%r = round(%d)
%rc = clip(%r, %lo, %c127)
%q = cast(%rc) {to=i8}
output %q
output %s
