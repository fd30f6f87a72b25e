import * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Duration from "effect/Duration"
import * as Classification from "../Classification.ts"
import * as Json from "./json.ts"
import { failureOfConnection, isError } from "./transport.ts"

/**
 * Says what an error of an AI SDK model means. The errors are known by their names and fields, so that the package which declares them need
 * not be there.
 */
export const classify = (
  error: unknown,
  at: { readonly provider: string; readonly now: number; readonly elapsed: Duration.Duration }
): ProviderError.ProviderError => {
  if (ProviderError.isProviderError(error)) return error
  const { provider } = at
  const fields: Json.JsonObject = typeof error === "object" && error !== null ? { ...error } : {}
  const message = error instanceof Error ? error.message : (Json.string(fields["message"]) ?? String(error))
  const name = error instanceof Error ? error.name : ""
  const fail = (reason: ProviderError.Reason, shouldRetry?: false) =>
    new ProviderError.APIError({
      provider,
      reason,
      description: Classification.describe(message),
      ...(shouldRetry === undefined ? undefined : { shouldRetry })
    })
  const status = Json.count(fields["statusCode"])
  const isUnreadable = status !== undefined && status < 300 && !isError(bodyOf(fields))
  if (isUnreadable) return failureOfConnection(provider, error, at.elapsed) ?? fail("InvalidResponse")
  if (status !== undefined) return answered(fields, status, message, at)
  const reason = reasons[name]
  if (reason !== undefined) return fail(reason, reason === "InvalidRequest" ? false : undefined)
  if (name === "TimeoutError") {
    return new ProviderError.Timeout({ provider, kind: "attempt", after: at.elapsed })
  }
  if (error instanceof Error) return failureOfConnection(provider, error, at.elapsed) ?? fail("ServerError")
  // Inside a stream the error is whatever the provider sent: an object with its words, or a sentence.
  return Classification.classify({
    provider,
    status: 200,
    headers: {},
    body: typeof error === "string" ? error : Json.textOf(error),
    now: at.now,
    elapsed: at.elapsed
  })
}

const bodyOf = (fields: Json.JsonObject): unknown => {
  const body = Json.parse(Json.string(fields["responseBody"]) ?? "")
  return body._tag === "Some" ? body.value : undefined
}

const answered = (
  fields: Json.JsonObject,
  status: number,
  message: string,
  at: Parameters<typeof classify>[1]
): ProviderError.ProviderError =>
  Classification.classify({
    provider: at.provider,
    status,
    headers: Object.fromEntries(
      Object.entries(Json.object(fields["responseHeaders"])).map(([name, value]) => [
        name.toLowerCase(),
        Json.string(value)
      ])
    ),
    body: Json.string(fields["responseBody"]) || message,
    now: at.now,
    elapsed: at.elapsed
  })

const reasons: { readonly [name: string]: ProviderError.Reason } = {
  AI_LoadAPIKeyError: "Authentication",
  AI_LoadSettingError: "Authentication",
  AI_NoSuchModelError: "ModelNotFound",
  AI_NoSuchProviderError: "ModelNotFound",
  AI_UnsupportedFunctionalityError: "InvalidRequest",
  AI_UnsupportedModelVersionError: "InvalidRequest",
  AI_InvalidPromptError: "InvalidRequest",
  AI_InvalidArgumentError: "InvalidRequest",
  AI_TooManyEmbeddingValuesForCallError: "InvalidRequest",
  AI_EmptyResponseBodyError: "InvalidResponse",
  AI_InvalidResponseDataError: "InvalidResponse",
  AI_JSONParseError: "InvalidResponse",
  AI_TypeValidationError: "InvalidResponse",
  AI_NoContentGeneratedError: "InvalidResponse"
}
