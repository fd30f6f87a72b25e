import { Sha256 } from "@aws-crypto/sha256-js"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import { SignatureV4 } from "@smithy/signature-v4"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Record from "effect/Record"
import * as Classification from "../Classification.ts"
import type { Authorize } from "./transport.ts"

/** What AWS signs with. */
export interface Identity {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string | undefined
}

/** Signs each request with Signature Version 4. `identity` is asked for each: keeping what has not expired is up to it. */
export const signed = (options: {
  readonly provider: string
  readonly region: string
  readonly service: string
  readonly identity: () => PromiseLike<Identity>
}): Authorize => {
  const failed = (description: string) => (error: unknown) =>
    new ProviderError.APIError({
      provider: options.provider,
      reason: "Authentication",
      description: Classification.describe(`${description}: ${error instanceof Error ? error.message : String(error)}`)
    })
  return (request, body) =>
    Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const identity = yield* Effect.tryPromise({
        try: () => options.identity(),
        catch: failed("There are no AWS credentials")
      })
      const { accessKeyId, secretAccessKey, sessionToken } = identity
      const signer = new SignatureV4({
        service: options.service,
        region: options.region,
        sha256: Sha256,
        credentials: { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? undefined : { sessionToken }) }
      })
      const url: {
        readonly protocol: string
        readonly hostname: string
        readonly port: string
        readonly host: string
        readonly pathname: string
        readonly searchParams: Iterable<readonly [string, string]>
      } = yield* Effect.orDie(Effect.fromOption(HttpClientRequest.toUrl(request)))
      const { headers } = yield* Effect.tryPromise({
        try: () =>
          signer.sign(
            {
              method: "POST",
              protocol: url.protocol,
              hostname: url.hostname,
              ...(url.port === "" ? undefined : { port: Number(url.port) }),
              path: url.pathname,
              query: Object.fromEntries(url.searchParams),
              headers: { "content-type": "application/json", host: url.host },
              body
            },
            { signingDate: DateTime.toDateUtc(DateTime.makeUnsafe(now)) }
          ),
        catch: failed("The request could not be signed")
      })
      return {
        request: HttpClientRequest.setHeaders(request, Record.remove(headers, "host")),
        secrets: [secretAccessKey, ...(sessionToken === undefined ? [] : [sessionToken])],
        secretHeaders: ["authorization", "x-amz-security-token"]
      }
    })
}
