/**
 * OpenAI's own client alone: its two retries, the default, and its timeout; it has no fallback.
 */
import OpenAI from "openai"
import type { MakeClient } from "../src/Client.ts"

export const make: MakeClient = (upstreams, limits) => {
  const client = new OpenAI({ baseURL: upstreams.primary, apiKey: "none", timeout: limits.attemptMillis })
  const params = (question: string) => ({
    model: "gpt-5",
    messages: [{ role: "user" as const, content: question }]
  })
  return {
    ask: async (question, signal) => {
      const { choices } = await client.chat.completions.create(params(question), { signal })
      return { text: choices[0]?.message.content ?? "", finishReason: choices[0]?.finish_reason }
    },
    stream: async (question, signal, onText) => {
      let text = ""
      let finishReason: string | undefined
      const stream = await client.chat.completions.create({ ...params(question), stream: true }, { signal })
      for await (const chunk of stream) {
        const delta = chunk.choices[0]?.delta.content ?? ""
        text += delta
        onText(delta)
        finishReason = chunk.choices[0]?.finish_reason ?? finishReason
      }
      // An aborted stream ends as if it were complete; whoever aborts it has to ask.
      signal.throwIfAborted()
      return { text, finishReason }
    }
  }
}
