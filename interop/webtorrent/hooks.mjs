// webtorrent speaks WebRTC by a native addon that is not built here; TCP is all that these tests use.
export async function resolve(spec, ctx, next) {
  if (spec.startsWith('node-datachannel') || spec === 'webrtc-polyfill') return { url: 'data:text/javascript,export default {}; export const RTCPeerConnection = undefined, RTCSessionDescription = undefined, RTCIceCandidate = undefined', shortCircuit: true }
  return next(spec, ctx)
}
