import type { MakeClient } from "../../packages/benchmarks/src/Client.ts"

/** A system that says half of the answer and calls it a success, forgets errors, and goes on when its caller has left. */
export const make: MakeClient = ({ primary }) => {
  const careless = async (question: string) => {
    const response = await fetch(`${primary}/chat/completions`, {
      method: "POST",
      body: JSON.stringify({ model: "gpt-5", messages: [{ role: "user", content: question }] })
    })
    const answer = await response.text()
    return { text: answer.slice(0, answer.length / 2), finishReason: "stop" }
  }
  return { ask: careless, stream: careless }
}
