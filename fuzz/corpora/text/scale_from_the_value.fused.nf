scheme !f8e4m3fn_tensor_static = {element=f8e4m3fn, granularity=tensor, compute=f32, given=f32, origin=given, factor=[], apply=divide, post=[], encode=saturate, layout=row_major}
body &body
  opset "" 20
  input %x: f32[d0, d1, 64]
  input %given_scale0_0: f32[]
  %normfuse/v_1: f32[d0, d1, 64] = div(%x, %given_scale0_0)
  %normfuse/v_2: f8e4m3fn[d0, d1, 64] = cast(%normfuse/v_1) {to=f8e4m3fn, saturate=true}
  output %normfuse/v_2 as "q0_0"
end
graph "scale_from_the_value"
opset "" 20
input %y: f32[batch, seq, 64]
%mx: f32[] = reduce_max(%y) {axes=null, keepdims=false}
%q: f8e4m3fn[batch, seq, 64] scheme !f8e4m3fn_tensor_static = quantize(%y, %mx) !f8e4m3fn_tensor_static @quantize/q body &body from {replaced=[d, q]}
output %q
