/**
 * Looks at what the model said: an answer without anything in it is a failure, even when the provider calls it a success.
 *
 * An answer counts as empty when it has no text, no tool call and no file; reasoning alone is not an answer. The error is an
 * `APIError` `EmptyOutput`, which the {@link Decision} table retries and then falls over.
 *
 * @since 0.1.0
 */
import type * as Response from "effect/ai/Response"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { LlmStreamPart } from "./LlmResponse.ts"
import * as Policy from "./Policy.ts"
import * as ProviderError from "./ProviderError.ts"

/**
 * Creates the policy.
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = (): Policy.Policy =>
  Policy.make((self) => {
    const empty = () =>
      Effect.fail(
        new ProviderError.APIError({
          provider: self.id,
          reason: "EmptyOutput",
          description: "The answer has no text, no tool call and no file"
        })
      )
    return {
      generate: (request) =>
        Effect.flatMap(self.generate(request), (response) =>
          response.content.some(isSubstance) ? Effect.succeed(response) : empty()
        ),
      stream: (request) =>
        Stream.transformPull(self.stream(request), (pull) =>
          Effect.sync(() => {
            let substance = false
            return Effect.flatMap(pull, (parts) => {
              substance ||= parts.some(isSubstance)
              return substance || parts.at(-1)?.type !== "finish" ? Effect.succeed(parts) : empty()
            })
          })
        )
    }
  })

const isSubstance = (part: Response.PartEncoded | LlmStreamPart): boolean => {
  switch (part.type) {
    case "text":
      return part.text.length > 0
    case "text-delta":
      return part.delta.length > 0
    case "tool-call":
    case "tool-result":
    case "tool-approval-request":
    case "tool-params-start":
    case "file":
      return true
    default:
      return false
  }
}
