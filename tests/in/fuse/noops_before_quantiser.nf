# Between a norm and its quantiser: a slice of everything, transposes that move axes of size 1 or none, an expand and a tile to the
# shape that is there, one operand concatenated and one part split.
graph "noops"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
const %start: i64[2] = [0, 0]
const %end: i64[2] = [9223372036854775807, 300]
const %axes: i64[2] = [1, 2]
const %step: i64[2] = [1, 1]
const %once: i64[3] = [1, 1, 1]
%x32 = cast(%x) {to=f32}
%sq = mul(%x32, %x32)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x32, %r)
%nc = cast(%n) {to=bf16}
%y = mul(%w, %nc)
%y1 = slice(%y, %start, %end, %axes, %step)
%y2 = transpose(%y1) {perm=[0, 1, 2]}
%to = shape(%y)
%y3 = expand(%y2, %to)
%y4 = tile(%y3, %once)
%y5 = concat(%y4) {axis=1}
%y6 = unsqueeze(%y5) {axes=[1]}
%y7 = transpose(%y6) {perm=[0, 2, 1, 3]}
%y8 = squeeze(%y7) {axes=[2]}
%y32 = cast(%y8) {to=f32}
%a = abs(%y32)
%am = reduce_max(%a) {axes=[-1]}
%s = div(%am, %fmax)
%d = div(%y32, %s)
%c = clip(%d, %fmin, %fmax)
%q = cast(%c) {to=f8e4m3fn}
output %q
output %s
