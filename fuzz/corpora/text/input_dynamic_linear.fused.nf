scheme !u8_tensor = {element=u8, granularity=tensor, compute=f32, origin=range, factor=[{div=255.0}], apply=divide, post=[round], encode=saturate, zero_point=range, scale={steps=[{div=255.0}], dtype=f32}, layout=row_major}
body &body
  opset "" 20
  input %x: bf16[d0, d1, 256]
  %normfuse/v_1: f32[d0, d1, 256] = cast(%x) {to=f32, saturate=true}
  %normfuse/v_2: u8[d0, d1, 256], %normfuse/v_3: f32[], %normfuse/v_4: u8[] = dynamic_quantize_linear(%normfuse/v_1)
  output %normfuse/v_2 as "q0_0"
  output %normfuse/v_3 as "scale0_0"
  output %normfuse/v_4 as "zero_point0_0"
end
graph "input_dynamic_linear"
opset "" 20
input %y: bf16[batch, seq, 256]
%q: u8[batch, seq, 256] scheme !u8_tensor, %s: f32[] scheme !u8_tensor, %z: u8[] = quantize(%y) !u8_tensor @quantize/q body &body from {replaced=[y32, q]}
output %q
output %s
output %z
