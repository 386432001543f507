scheme !f8e4m3fn_tensor_static = {element=f8e4m3fn, granularity=tensor, compute=f32, given=f32, origin=given, factor=[], apply=divide, post=[], encode=saturate, layout=row_major}
body &body
  opset "" 20
  input %x: bf16[d0, d1, 256]
  input %weight0: bf16[256]
  %normfuse/v_1: f32[d0, d1, 256] = cast(%x) {to=f32, saturate=true}
  const %normfuse/const_2: f32[] = 2.0
  %normfuse/v_3: f32[d0, d1, 256] = pow(%normfuse/v_1, %normfuse/const_2)
  %normfuse/v_4: f32[d0, d1, 1] = reduce_mean(%normfuse/v_3) {axes=[-1], keepdims=true}
  const %normfuse/const_5: f32[] = 1e-6
  %normfuse/v_6: f32[d0, d1, 1] = add(%normfuse/v_4, %normfuse/const_5)
  %normfuse/v_7: f32[d0, d1, 1] = sqrt(%normfuse/v_6)
  %normfuse/v_8: f32[d0, d1, 1] = reciprocal(%normfuse/v_7)
  %normfuse/v_9: f32[d0, d1, 256] = mul(%normfuse/v_1, %normfuse/v_8)
  %normfuse/v_10: bf16[d0, d1, 256] = cast(%normfuse/v_9) {to=bf16, saturate=true}
  %normfuse/v_11: bf16[d0, d1, 256] = mul(%weight0, %normfuse/v_10)
  output %normfuse/v_11 as "y0"
end
body &body~2
  opset "" 20
  input %x: bf16[d0, d1, 256]
  input %given_scale0_0: f32[]
  %normfuse/v_1: f32[d0, d1, 256] = cast(%x) {to=f32, saturate=true}
  %normfuse/v_2: f32[d0, d1, 256] = div(%normfuse/v_1, %given_scale0_0)
  %normfuse/v_3: f8e4m3fn[d0, d1, 256] = cast(%normfuse/v_2) {to=f8e4m3fn, saturate=true}
  output %normfuse/v_3 as "q0_0"
end
graph "scale_from_the_norm"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
%y: bf16[batch, seq, 256] = fused_norm(%x, %w) {prologue=none, source=shared, emit_sum=false, siblings=[{width=256, input=bf16, compute=f32, eps=1e-6, root=reciprocal_sqrt, normed=bf16, weight={dtype=bf16, plus_one=false}, output=bf16, emit_normed=true, epilogues=[]}]} @fused_norm/y_ms body &body from {replaced=[y_x32, y_sq, y_ms, y_ve, y_rt, y_r, y_n, y_nc, y], rules=["mean-of-squares", "norm-by-reciprocal-of-root", "plus-eps", "pow-two-is-square", weight]}
%c: f32[batch, seq, 256] = cast(%y) {to=f32, saturate=true}
%mx: f32[] = reduce_max(%c) {axes=null, keepdims=false}
%q: f8e4m3fn[batch, seq, 256] scheme !f8e4m3fn_tensor_static = quantize(%y, %mx) !f8e4m3fn_tensor_static @quantize/q body &body~2 from {replaced=[d, q]}
output %q
