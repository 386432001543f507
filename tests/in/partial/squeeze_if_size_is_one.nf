# The axis that is squeezed away has a size of its own, which only the model promises to be 1: no op of any rows may go by it.
graph "squeeze_if_size_is_one"
opset "" 20
input %x: f32[batch, one, 64]
const %w: f32[64] = fill(1.5)
const %eps: f32[] = 1e-6
const %c448: f32[] = 448.0
%sq = mul(%x, %x)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%r = rsqrt(%ve)
%n = mul(%x, %r)
%y = mul(%w, %n)
%z = squeeze(%y) {axes=[1]}
%ab = abs(%z)
%am = reduce_max(%ab) {axes=[-1]}
%s = div(%am, %c448)
%d = div(%z, %s)
%q = cast(%d) {to=f8e4m3fn}
output %q
output %s
