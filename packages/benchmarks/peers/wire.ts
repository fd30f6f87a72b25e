/**
 * Chat completions over fetch, as a program without a client library has them.
 */
import type { Answer } from "../src/Client.ts"

export const post = async (baseUrl: string, question: string, stream: boolean, signal: AbortSignal) => {
  const response = await fetch(`${baseUrl}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "gpt-5", messages: [{ role: "user", content: question }], stream }),
    signal
  })
  if (!response.ok) throw new Error(`status ${response.status}: ${await response.text()}`)
  return response
}

interface Choice {
  readonly message?: { readonly content: string }
  readonly delta?: { readonly content?: string | null }
  readonly finish_reason?: string | null
}

const choiceOf = (json: string): Choice | undefined =>
  // The shape is the contract of the protocol; a program of this kind does not check it.
  (JSON.parse(json) as { readonly choices: ReadonlyArray<Choice> }).choices[0]

export const completion = async (response: Response): Promise<Answer> => {
  const choice = choiceOf(await response.text())
  return { text: choice?.message?.content ?? "", finishReason: choice?.finish_reason ?? undefined }
}

export async function* deltas(response: Response): AsyncGenerator<{ text: string; finishReason: string | undefined }> {
  if (response.body === null) return
  let buffer = ""
  for await (const bytes of response.body.pipeThrough(new TextDecoderStream())) {
    buffer += bytes
    const lines = buffer.split("\n")
    buffer = lines.pop() ?? ""
    for (const line of lines) {
      if (!line.startsWith("data:")) continue
      const data = line.slice(5).trim()
      if (data === "[DONE]") return
      const choice = choiceOf(data)
      yield { text: choice?.delta?.content ?? "", finishReason: choice?.finish_reason ?? undefined }
    }
  }
}
