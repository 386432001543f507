scheme !i8_channel_static = {element=i8, granularity=channel, compute=f32, given=f32, origin=given, factor=[], apply=divide, post=[round], encode=cast, layout=row_major}
body &body
  opset "" 21
  input %x: bf16[d0, d1, 64]
  input %given_scale0_0: f32[64]
  %normfuse/v_1: f32[d0, d1, 64] = cast(%x) {to=f32, saturate=true}
  %normfuse/v_2: i8[d0, d1, 64] = quantize_linear(%normfuse/v_1, %given_scale0_0) {axis=2, block_size=0, to=i8, saturate=true}
  output %normfuse/v_2 as "q0_0"
end
graph "channels"
opset "" 21
input %y: bf16[batch, seq, 64]
input %s: f32[64]
%q: i8[batch, seq, 64] scheme !i8_channel_static = quantize(%y, %s) !i8_channel_static @quantize/q body &body from {replaced=[y32, q]}
output %q
