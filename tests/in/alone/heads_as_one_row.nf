# Tokens are quantised as rows of all heads: the op takes the value with its last axes as one.
graph "heads_as_one_row"
opset "" 20
input %y: bf16[batch, seq, 4, 64]
const %flat: i64[3] = [0, 0, 256]
const %heads: i64[4] = [0, 0, 4, 64]
const %top: f32[] = 448.0
%v = reshape(%y, %flat)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1]}
%s = div(%am, %top)
%d = div(%v32, %s)
%q0 = cast(%d) {to=f8e4m3fn}
%q = reshape(%q0, %heads)
output %q
output %s
