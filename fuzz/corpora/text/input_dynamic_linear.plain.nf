graph "input_dynamic_linear"
opset "" 20
input %y: bf16[batch, seq, 256]
%y32: f32[batch, seq, 256] = cast(%y) {to=f32, saturate=true}
%q: u8[batch, seq, 256], %s: f32[], %z: u8[] = dynamic_quantize_linear(%y32)
output %q
output %s
output %z
