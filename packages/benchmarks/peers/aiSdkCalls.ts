/**
 * Calls as the documentation of the AI SDK shows them, for the SDK alone and for what wraps its models.
 */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import { generateText, type LanguageModel, type streamText, streamText as startStream } from "ai"
import type { Answer, Client, Limits } from "../src/Client.ts"

export const modelOf = (baseURL: string, name: string) =>
  createOpenAICompatible({ baseURL, name, apiKey: "none" }).chatModel("gpt-5")

export const timeoutOf = (limits: Limits) => ({
  totalMs: limits.deadlineMillis,
  firstChunkMs: limits.attemptMillis,
  chunkMs: limits.idleMillis
})

export const call = (model: () => LanguageModel, limits: Limits): Client => {
  const wrapped = model()
  const timeout = timeoutOf(limits)
  return {
    ask: async (prompt, abortSignal) => {
      const { finishReason, text } = await generateText({ model: wrapped, prompt, abortSignal, timeout })
      return { text, finishReason }
    },
    stream: (prompt, abortSignal, onText) =>
      read(startStream({ model: wrapped, prompt, abortSignal, timeout, onError: () => {} }), onText)
  }
}

/** Reads all parts, the ones about errors included, as the documentation advises for streams that must not end unnoticed. */
export const read = async (
  { stream }: Pick<ReturnType<typeof streamText>, "stream">,
  onText: (delta: string) => void
): Promise<Answer> => {
  let text = ""
  let finishReason: string | undefined
  for await (const part of stream) {
    switch (part.type) {
      case "text-delta":
        text += part.text
        onText(part.text)
        break
      case "finish":
        finishReason = part.finishReason
        break
      case "error":
        throw part.error
      case "abort":
        throw new DOMException("The stream was aborted.", "AbortError")
      default:
    }
  }
  return { text, finishReason }
}
