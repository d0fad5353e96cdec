"""What tells a release with the backend `dynamic` from one without."""


class StorageBackendFactory:
    @classmethod
    def _create_dynamic_backend(cls):
        raise NotImplementedError
