# Two quantisers look at the value through one view, and the given scale of the second is made of the first one's scales.
graph "scale_from_another_scale"
opset "" 20
input %x: bf16[batch, seq, 32]
const %top: f32[] = 448.0
const %back: i64[4] = [0, 0, 4, 8]
%v = reshape(%x, %back)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1]}
%s = div(%am, %top)
%d = div(%v32, %s)
%q = cast(%d) {to=f8e4m3fn}
%w32 = cast(%v) {to=f32}
%g = reduce_max(%s) {axes=null, keepdims=false}
%e = div(%w32, %g)
%k = cast(%e) {to=f8e4m3fn}
output %q
output %k
