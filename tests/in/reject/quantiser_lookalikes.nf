# A scale from the magnitudes of another value, along another axis, and a cast to f8 that met no scale.
graph "quantiser_lookalikes"
opset "" 20
input %x: f32[batch, seq, 64]
input %y: f32[batch, seq, 64]
input %z: f32[8, 64]
const %top: f32[] = 448.0
%ax = abs(%x)
%amx = reduce_max(%ax) {axes=[-1]}
%sx = div(%amx, %top)
%dy = div(%y, %sx)
%qy = cast(%dy) {to=f8e4m3fn}
%az = abs(%z)
%amz = reduce_max(%az) {axes=[0]}
%sz = div(%amz, %top)
%dz = div(%z, %sz)
%qz = cast(%dz) {to=f8e4m3fn}
%q = cast(%x) {to=f8e4m3fn}
output %qy
output %qz
output %q
