/**
 * LangChain.js: `withFallbacks`, and no retries of its own, as its documentation advises for models with fallbacks.
 */
import { ChatOpenAI } from "@langchain/openai"
import type { MakeClient } from "../src/Client.ts"

export const make: MakeClient = (upstreams, limits) => {
  const model = (baseURL: string) =>
    new ChatOpenAI({
      model: "gpt-5",
      apiKey: "none",
      configuration: { baseURL },
      maxRetries: 0,
      timeout: limits.attemptMillis
    })
  const resilient = model(upstreams.primary).withFallbacks([model(upstreams.backup)])
  return {
    ask: async (question, signal) => {
      const message = await resilient.invoke(question, { signal })
      return { text: message.text, finishReason: finishReasonOf(message.response_metadata) }
    },
    stream: async (question, signal, onText) => {
      let text = ""
      let finishReason: string | undefined
      for await (const chunk of await resilient.stream(question, { signal })) {
        text += chunk.text
        onText(chunk.text)
        finishReason = finishReasonOf(chunk.response_metadata) ?? finishReason
      }
      return { text, finishReason }
    }
  }
}

const finishReasonOf = (metadata: Record<string, unknown>): string | undefined => {
  const reason = metadata["finish_reason"]
  return typeof reason === "string" ? reason : undefined
}
