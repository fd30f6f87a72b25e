/**
 * The model all-MiniLM-L6-v2 as an embedder for similar answers, in a worker thread of its own.
 *
 * @since 0.1.0
 */
export * as MiniLm from "./MiniLm.ts"
