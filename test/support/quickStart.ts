// A user's first program. test/integration/package.test.ts copies it into a new project and runs it there.
import { LlmResilience } from "@llm-resilience/core"
import { Anthropic, OpenAiCompatible } from "@llm-resilience/providers"
import { Upstream } from "@llm-resilience/testing"
import { Console, Effect, Layer } from "effect"
import { FetchHttpClient } from "effect/http"

const program = Effect.gen(function* () {
  const primary = yield* Upstream.make({ answer: (question) => `${question.text} to you too.` })
  const backup = yield* Upstream.make({ answer: (question) => `${question.text} from the second.` })
  const resilient = LlmResilience.layer({
    steps: [
      { provider: OpenAiCompatible.layer({ model: "gpt-5", baseUrl: primary.baseUrl }) },
      { provider: Anthropic.layer({ model: "claude-sonnet-4-5", baseUrl: backup.baseUrl }) }
    ]
  }).pipe(Layer.provide(FetchHttpClient.layer))

  const greet = LlmResilience.generate({ prompt: "Hello" }).pipe(
    Effect.flatMap(({ served, text }) => Console.log(`${served.provider}: ${text}`))
  )
  yield* Effect.andThen(greet, Effect.andThen(primary.down, greet)).pipe(Effect.provide(resilient))
})

await Effect.runPromise(Effect.scoped(program))
