/**
 * fetch and nothing around it: what the canned transport and the parsing cost.
 */
import type { MakeClient } from "../src/Client.ts"
import { completion, deltas, post } from "./wire.ts"

export const make: MakeClient = (upstreams) => ({
  ask: async (question, signal) => completion(await post(upstreams.primary, question, false, signal)),
  stream: async (question, signal, onText) => {
    let text = ""
    let finishReason: string | undefined
    for await (const chunk of deltas(await post(upstreams.primary, question, true, signal))) {
      text += chunk.text
      onText(chunk.text)
      finishReason = chunk.finishReason ?? finishReason
    }
    return { text, finishReason }
  }
})
